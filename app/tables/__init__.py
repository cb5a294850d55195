"""The arithmetic behind the pages: frames in, frames out, no Streamlit."""
