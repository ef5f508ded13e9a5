"""What is wrong with the data, before it is trained on."""
