"""Machines of systemd-nspawn on this computer: root image, network, processes, and the files inside."""
