"""From a teacher and a budget to the model that is chosen, and the frontier it stands on."""
