//! The pure part of the loop: files to desired state, allocation, and the plan with its reasons.
