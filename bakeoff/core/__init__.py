"""What every folder may use: errors of one line, checked values, files that are there completely or not at all."""
