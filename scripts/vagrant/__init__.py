"""The Vagrant machines: their box, what they need on this computer, and their test."""
