"""Rules between groups, made away with: tied groups become one."""
