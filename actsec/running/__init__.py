"""From a plan to outcomes: what is loaded, the jobs, where they run, and the folder that keeps what they found."""
