"""What pages are made of beside charts: pieces of HTML, and the components with a script of their own."""
