"""The paper's user study: people say of pictures whether a machine altered them."""
