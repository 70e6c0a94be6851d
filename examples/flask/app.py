"""The announcement's app: a page and a counter that a suspended microVM keeps."""

from flask import Flask, jsonify

app = Flask(__name__)
count = 0


@app.get("/")
def hello():
    global count
    count += 1
    return jsonify(message="Hello from a MicroVM", count=count)
