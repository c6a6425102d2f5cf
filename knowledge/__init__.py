"""Answers from the user's own files: documents to chunks to vectors to context.

Reads the files of a folder, cuts them into chunks, embeds these, keeps both in a store and searches it. The package
knows documents and texts; it knows nothing of HTTP, chats or generation.
"""
