"""Write, run, test and submit code in a sandbox."""
