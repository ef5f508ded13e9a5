"""From input files to generated files: plan, sample over windows, decode, write."""
