"""This machine: its clock. Is reached neither from wire/ nor from timing/."""
