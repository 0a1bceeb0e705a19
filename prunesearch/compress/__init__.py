"""Changes of the model itself beside its tokens; each is a twin of a module, which runs in the module's place."""
