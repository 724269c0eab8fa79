"""What is asked of the operating system.

- `files`: digest and replacement of whole files
- `processes`: processes that do not import the script that started them; memory held
- `signals`: SIGTERM and SIGINT as an exception that is not lost
"""
