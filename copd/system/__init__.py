"""Calls to the operating system.

- `files`: digests of files, and their replacement as a whole
- `hub`: branches and tags of the Hugging Face Hub, resolved to commits
- `own_code`: a user's own code, found with its hash and run only as it was hashed
- `processes`: processes that do not import the script that started them; their memory and cores
- `cluster`: Ray, joined or started
- `fetching`: how far a download is
- `shortage`: memory that does not suffice, told from other errors
- `signals`: SIGTERM and SIGINT as an exception that is not lost
"""
