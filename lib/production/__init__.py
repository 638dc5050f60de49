"""What comes after deployment, simulated: watch, let labels arrive, retrain, promote."""
