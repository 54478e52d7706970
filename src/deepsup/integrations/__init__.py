"""In other people's trainers: a file a library, which is imported when it is used and not before."""
