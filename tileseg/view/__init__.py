"""A viewer in the browser: of one run, of an archive of runs, served from here or as a folder of files."""
