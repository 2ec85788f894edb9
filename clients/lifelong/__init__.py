"""Lifelong learning on the device: Fisher penalty, proximal term and change detection."""
