"""Pictures made larger by networks: their files, and how they run on the memory that there is."""
