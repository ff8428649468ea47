"""What releases and rollouts run on: SSH, Docker, an OCI registry. Chosen by `app`."""
