"""One call per line on standard input, one answer per line on standard output: boto3, or the AWS CLI within this process.

A call: {"service", "operation", "params", "pageSize"?}; an answer: {"output"} or {"error": {"name", "message"}}.
"""

import contextlib
import io
import json
import os
import re
import sys

from botocore import xform_name


def boto3_caller():
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError, ParamValidationError

    config = Config(retries={"total_max_attempts": 1})
    clients = {}

    def call(service, operation, params, page_size):
        client = clients.setdefault(service, None) or boto3.client(service, config=config)
        clients[service] = client
        method = xform_name(operation)
        try:
            if page_size is None:
                output = getattr(client, method)(**params)
                output.pop("ResponseMetadata", None)
                return {"output": output}
            pages = client.get_paginator(method).paginate(**params, PaginationConfig={"PageSize": page_size})
            return {"output": pages.build_full_result()}
        except ClientError as error:
            known = error.response["Error"]
            modelled = type(error).__name__
            return {"error": {"name": known["Code"], "message": known["Message"], "class": modelled}}
        except ParamValidationError as error:
            return {"error": {"name": "ParamValidationError", "message": str(error)}}

    return call


def cli_caller():
    from awscli.clidriver import create_clidriver

    driver = create_clidriver()
    refusal = re.compile(r"An error occurred \((\w+)\) when calling the \w+ operation(?: \(.*?\))?: (.*)", re.S)

    def call(service, operation, params, page_size):
        command = [service, xform_name(operation, "-"), "--output", "json", "--cli-input-json", json.dumps(params)]
        if page_size is not None:
            command += ["--page-size", str(page_size)]
        elif "maxResults" in params:
            command.append("--no-paginate")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = driver.main(command)
        if code == 0:
            text = out.getvalue().strip()
            return {"output": json.loads(text) if text else {}}
        match = refusal.search(err.getvalue())
        if match is None:
            return {"error": {"name": f"exit code {code}", "message": err.getvalue().strip()}}
        return {"error": {"name": match.group(1), "message": match.group(2).strip()}}

    return call


def main():
    os.environ["AWS_MAX_ATTEMPTS"] = "1"
    answers = sys.stdout
    call = boto3_caller() if sys.argv[1] == "boto3" else cli_caller()
    for line in sys.stdin:
        asked = json.loads(line)
        answer = call(asked["service"], asked["operation"], asked["params"], asked.get("pageSize"))
        print(json.dumps(answer, default=str), file=answers, flush=True)


main()
