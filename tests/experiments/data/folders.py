"""Folders of data that tests write."""


def write(folder, **files):
    """Write text or bytes to files whose names have "_" for "."."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("_", ".")).write_bytes(data)
    return folder
