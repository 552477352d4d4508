"""Side by side: TSQ, NTP, NTS, streams, other TSQ servers and a C echo, measured in one run; see `__main__`."""
