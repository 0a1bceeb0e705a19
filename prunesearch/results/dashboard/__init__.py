"""`prunesearch dashboard`: the views of `results.views` over study folders and Optuna storages, live."""
