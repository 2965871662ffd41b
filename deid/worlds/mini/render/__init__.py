"""Draws the people of the mini world."""
