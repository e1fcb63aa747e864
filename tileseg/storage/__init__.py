"""Where things lie and how they are written: files, object stores, leases."""
