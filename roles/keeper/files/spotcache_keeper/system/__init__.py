"""What every room stands on: commands, files, locks, times, the program's own state."""
