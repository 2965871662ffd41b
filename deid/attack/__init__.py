"""What the best attacker finds in a folder of outputs, whoever made them: `deid attack`."""
