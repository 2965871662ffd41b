"""Training of the learned rivals, one file each; their networks lie in `deid.nets`, their use in
`deid.anonymize.rivals`. `data/rivals/dvc.yaml` has the numbers of those in git."""
