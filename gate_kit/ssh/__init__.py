"""What every gate that reaches hosts by SSH shares: exec, supervised jobs, files, tunnels."""
