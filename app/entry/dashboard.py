"""The script Streamlit runs. It has a folder of its own because Streamlit takes a `pages` folder beside its script
for pages that run by themselves, and puts the script's folder first on the import path.
"""

from app.main import main

main()
