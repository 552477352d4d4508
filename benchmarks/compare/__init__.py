"""Side by side: TSQ, NTP, NTS, streams, other TSQ servers and a C echo as the floor, measured in one run; see `__main__`."""
