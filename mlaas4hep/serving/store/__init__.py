"""The model store on disk: uploads, archives, model folders, and the lock."""
