"""`prunesearch dashboard`: the views of `report.views` over study folders and Optuna storages, live."""
