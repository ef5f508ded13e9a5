"""The endless training stream, and its negatives."""
