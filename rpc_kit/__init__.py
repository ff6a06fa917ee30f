"""What every Sky Port server and client shares on the wire: errors, channels, streams."""
