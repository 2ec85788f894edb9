"""Degraded measurements: noise, missing values, imputation and calibration."""
