"""What fits one model: LightGBM and a recurrent network, and the nested fits of either."""
