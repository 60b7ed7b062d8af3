"""Launch plans to LaunchPlan, one format a file."""
