"""The client that blocks; all of it but the driver is made from the asynchronous one."""
