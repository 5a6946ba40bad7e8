"""Networks for small pictures; each file stands alone, and a YAML file in conf/model makes it an option."""
