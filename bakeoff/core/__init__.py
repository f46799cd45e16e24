"""What every folder may use: errors of one line, checked values, files that are written completely or not at all."""
