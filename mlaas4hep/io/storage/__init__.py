"""Read bytes of files on disk, on XRootD, HTTP and S3 servers, with timeouts, retries and replicas."""
