"""How results lie on disk: whole or not at all, with a checksum, and with attributes that are what they claim to be.

`whole` puts a file or a folder in the place of another so that no moment exists in which both could be lost;
`netcdf` writes NetCDF so that a full disk is an OSError; `checksum` stamps and verifies what was written; `attributes`
refuses stored texts and numbers that are something else. No module here knows what a posterior is.
"""
