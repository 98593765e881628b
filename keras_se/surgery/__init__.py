"""SE blocks put into models that exist, and taken out: pure, with the weights carried over."""
