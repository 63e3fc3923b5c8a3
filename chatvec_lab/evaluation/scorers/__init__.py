"""What a reply is measured by."""
