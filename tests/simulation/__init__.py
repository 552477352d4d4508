"""Simulations in virtual time: many clients and servers, with drifting clocks, bad links and falsetickers."""
