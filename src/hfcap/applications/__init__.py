"""Alt text for the pictures of documents: check, suggest, review, apply."""
