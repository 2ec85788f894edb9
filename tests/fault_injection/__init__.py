"""The rig that breaks a federation of real processes on purpose: is anything personal lost?"""
