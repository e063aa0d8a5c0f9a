"""How a version becomes the champion: decisions about it, the log of promotions, and the aliases."""
