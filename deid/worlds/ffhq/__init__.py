"""The paper's world: public checkpoints, downloaded, hash-checked and read safely."""
