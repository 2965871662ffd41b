"""The paper's Tables 1–3 and Figures 2–4 on held-out faces, and a page that explains them."""
